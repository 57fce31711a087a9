"""What `python -m experiments.sweep` is made of.

`settings` and `space` say what is searched; `shared_study` is the record that workers share, and
holds all that keeps trials from being lost or done twice; `worker` trains what it takes from there;
`report` shows it. None of them imports JAX.
"""
