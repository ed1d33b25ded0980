"""python -m actstore, where the command is not on the path."""

from actstore.commands.main import main

if __name__ == "__main__":
    main()
