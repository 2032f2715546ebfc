"""What somebody asks of a building's maintenance assistant: texts made here by a grammar, a transformer
teacher and a small student."""
