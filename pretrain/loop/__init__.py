"""The pieces of a run around its step: data, folder, schedule, pictures, signals, what a person sees. The trainer puts
them together; no method and no engine stands here, and none imports this.
"""
