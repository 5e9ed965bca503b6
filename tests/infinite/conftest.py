# It asks for triton's interpreter, in a process of its own; to read it here would ask for it in all tests.
collect_ignore = ["interpreted.py"]
