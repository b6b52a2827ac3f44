"""Evaluation protocols on clips and scores of whole videos."""
