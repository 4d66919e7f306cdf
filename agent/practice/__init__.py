"""Goals that a user's own files can check: ``autogpt practice DIR`` makes a suite of them.

``folder`` reads the files, ``fields`` classifies columns, ``queries`` draws structured queries and
``conditions`` their filters, ``phrasing`` puts them into English, ``chores`` makes goals about text files,
and ``generate`` keeps what is worth asking.
"""
