"""Rendering of prompts to tokens, stop tokens, and exported model directories."""
