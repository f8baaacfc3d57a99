"""What the browser gets: plain HTML, CSS and JavaScript; index.html loads main.js, which shows a page."""
