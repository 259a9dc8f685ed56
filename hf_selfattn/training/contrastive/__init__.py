"""A phase before the others for few rows: the backbone draws rows of a class together, and other classes apart.

After SetFit (Tunstall et al., 2022), which learns pairs of rows one by one. Here all pairs of a batch count in one
loss (Khosla et al., 2020): no list of pairs is kept, and memory is that of a batch, however many rows there are.
"""
