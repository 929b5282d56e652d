"""The commands of the command line, a module each subject. torch is imported inside them: help comes at once."""
