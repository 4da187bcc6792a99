import sys

sys.exit("there is nothing to serve here")
