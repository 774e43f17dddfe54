"""Many slides: which (``jobs``), scored (``run``), what became of them (``records``)."""
