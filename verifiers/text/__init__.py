"""Between text and tokens: how a problem is rendered, where a response ends, and how a model is exported."""
