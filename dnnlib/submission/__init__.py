"""The original's way of starting runs from scripts: dnnlib.SubmitConfig, dnnlib.submit_run, dnnlib.RunContext."""
