"""A slide read in processes of its own, so that a crash in a slide library is only a failed read.

Slide libraries are native code fed with files from anywhere: one bad tile can end a process that
holds hours of work, or hang it. ``IsolatedSlide`` hands every read to one of a few workers
(``process``). A worker that dies is replaced and the read tried once more; what kills the second
one too is a ``SlideReadError`` like any other part that cannot be read.

Workers are fresh interpreters, neither forks (a fork beside the threads of PyTorch may lock up) nor
children of ``multiprocessing`` (which runs the user's script again). They end when the process that
started them does, in whatever way.
"""
