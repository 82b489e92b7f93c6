"""Is everything around a worker such that nothing can be lost or doubled?"""
