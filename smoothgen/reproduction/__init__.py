"""The paper's evidence in one and two dimensions, run again beside exact entropies: `smoothgen reproduce`."""
