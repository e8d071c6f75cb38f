"""Models of other programs' formats: GGUF files and GPTQ directories as plain directories that the
core can run, and llama.cpp's importance matrices. Nothing here quantizes or evaluates."""
