"""How well a patch model does on labelled patches; needs no fastai."""
