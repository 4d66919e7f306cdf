"""Goals that a user's own files can check: ``autogpt practice DIR`` makes a suite of them.

``folder`` reads what is there, ``fields`` says what columns are like, ``queries`` draws structured
queries and ``conditions`` their filters, ``wording`` puts them into English, ``chores`` makes goals
about text files, and ``suite`` keeps what is worth asking and writes it.
"""
