"""The native engine: generation on CPUs with AVX-512 VNNI, in C++, without PyTorch."""
