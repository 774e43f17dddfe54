"""From cells to probabilities: one ``block``, the ``lazy`` array of all of them, who runs it."""
