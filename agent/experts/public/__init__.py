"""Episodes from public collections of dialogues, instructions and facts, beside those of the experts' own."""
