"""What the command lines of Duo and SEDD share."""
