"""A run on a SLURM cluster: the job script, its submission, and what must hold before. Nothing here loads torch."""
