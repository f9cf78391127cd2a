"""What questions about pictures share: files of pictures, saved networks, and pictures unlike those of training."""
