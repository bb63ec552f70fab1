"""The episodic memory: what was read is kept nearly raw, and the question searches it."""
