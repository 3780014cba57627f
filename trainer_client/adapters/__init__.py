"""The ensemble in the shapes that other trainers call: one small function each, imported by module name.

They need nothing but the SDK; the trainers themselves are never imported.
"""
