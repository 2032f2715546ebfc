"""The update machine's shell: downloads, verification, slots, activation."""
