"""What a model itself answers, in the library that it was made with: the truth that exports and quantized
variants are held against."""
