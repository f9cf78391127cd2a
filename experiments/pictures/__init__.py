"""Shared by questions about pictures: files of pictures, files of networks, and the novelty of a picture."""
