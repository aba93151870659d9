"""What people look at. Computes no number: tables come in, text goes out."""
