"""Models behind one interface: ours, best-of-n, LangChain's, and the scripted fake."""
