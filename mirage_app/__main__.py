"""``python -m mirage_app`` is ``mirage``."""

from mirage_app import main

if __name__ == "__main__":
    main()
