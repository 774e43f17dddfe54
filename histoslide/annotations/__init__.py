"""What is drawn on slides: annotations of any format, and what is tumour by them."""
