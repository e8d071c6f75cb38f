"""The parts of `jang_tools.compare`: rows, the work folder, measuring, the table and the figures.

``jang_tools.compare`` is the function over it, ``jang compare`` the command.
"""
