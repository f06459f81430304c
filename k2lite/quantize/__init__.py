"""What the quantizer does with models: sources, options, plan, outputs."""
