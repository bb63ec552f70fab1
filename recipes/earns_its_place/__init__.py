"""Does memory earn its place? Tasks on which memories and their rivals are compared, each rival tuned as hard."""
