"""Train a small network, compress it, and run the file that would be shipped. Takes about ten seconds."""

import rarefy
from rarefy import ClusterWeights, Finetune, Half, PruneWeights, Recipe, Train, zoo
from rarefy.data import digits

split = digits()  # 1,797 handwritten digits that come with rarefy
task = rarefy.Classification(split.train, split.judge, batch_size=32)
model = zoo.build("lenet5-digits")  # or any nn.Module; yours is never changed

recipe = Recipe([Train(epochs=3), PruneWeights(sparsity=0.8), Finetune(epochs=3), ClusterWeights(bits=4), Half()])
run = recipe.run(model, task, out="runs/first")
print(run)  # bytes on disk and accuracy, after each step

network = rarefy.load(run.rfy)  # needs neither torch nor the network's class
images, labels = next(iter(task.judge()))
print("right:", (network(images.numpy()).argmax(1) == labels.numpy()).mean())
