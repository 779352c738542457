"""The steps by which a MINDIR graph becomes an IR graph."""
