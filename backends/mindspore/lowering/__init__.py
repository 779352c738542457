"""How the operators of an IR graph are said in MindSpore, one file a family."""
