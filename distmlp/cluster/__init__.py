"""The programs of a cluster, called as a user calls them; and processes of this machine."""
