"""Where things are kept: files and objects, written whole, copied near, locked while in work."""
