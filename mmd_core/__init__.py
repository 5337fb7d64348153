from .reference import References
