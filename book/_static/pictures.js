// A picture is a link to itself: alone in the window it is as large as it was drawn, which a phone's column is not.
for (const picture of document.querySelectorAll("article .cell_output img, article figure img:not(.still)")) {
  const link = document.createElement("a");
  link.href = picture.src;
  link.title = "See this picture alone";
  picture.replaceWith(link);
  link.append(picture);
}
