"""GGUF files, as llama.cpp and its relatives write them: header, tensors, model shape, vocabulary."""
