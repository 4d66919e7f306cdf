"""How the shipped word vectors and the judge of recall are made from public questions and answers."""
