"""Training patch models with fastai; scoring never imports this package."""
