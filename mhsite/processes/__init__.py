"""The site's own processes: what runs, who keeps it running, and `mh up`, which owns them all."""
