"""Causal analysis of latents: do they carry the input (X -> Z), and do they drive the answer (Z -> Y)?"""
