"""The machine we run on: processors, GPUs, cache folder; and work begun in the background."""
