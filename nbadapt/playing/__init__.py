"""The playground without its widget: who answers, what they say to one prompt, and where they differ."""
