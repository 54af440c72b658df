"""The authors' own rules, each as its authors' code decides, with all its peculiarities; written anew, not copied.

They exist for comparison with published figures. The default rules read more answers, and fewer wrongly; how far the
two agree is measured in docs/evaluation.md.
"""
