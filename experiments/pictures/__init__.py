"""Shared by questions about pictures: files of pictures, files of networks, albums of results, and novelty."""
