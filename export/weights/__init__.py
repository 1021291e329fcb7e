"""Published weights into our modules: one file a family, strict about every key."""
